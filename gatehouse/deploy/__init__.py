"""What `gatehouse deploy` writes: configuration of the programs around Gatehouse, from the templates in deploy/."""
