"""The load generator behind `gatehouse bench`, for any server that speaks the OpenAI API.

workload   what is asked: prompts of a given length, how much of them is shared, how long the answers are
client     one request and what was seen of its answer
load       many of them: at once, in a closed loop, or arriving at a rate; over several processes
stats      percentiles with their confidence
report     the table, the JSON and the plot
"""
