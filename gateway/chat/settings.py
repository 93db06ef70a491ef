"""The section `chat` of gatehouse.yaml, and the parameters of an answer, which members set, too."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator
from pydantic.alias_generators import to_camel

from gateway.section import Bytes, Count, Seconds, Section

Language = Literal["en", "zh-CN"]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MOST_STOPS = 16
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
LONGEST_PROMPT = 32_768  # characters of a system prompt


class Parameters(Section):
    """How an answer is to be made; null leaves it to the layer below: configuration, chat, run."""

    system_prompt: str | None = Field(None, max_length=LONGEST_PROMPT)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: Count | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: tuple[_Stop, ...] | None = Field(None, max_length=MOST_STOPS)

    def over(self, below: "Parameters") -> "Parameters":
        """These, and where they say nothing those below."""
        return below.model_copy(update=self.model_dump(exclude_none=True))

    def said(self) -> dict[str, Any]:
        """Those that say something, as they are kept."""
        return self.model_dump(mode="json", exclude_none=True)


class Defaults(Parameters):
    """Parameters of an answer for which nobody chose any."""

    system_prompt: str | None = Field("", max_length=LONGEST_PROMPT)
    temperature: float | None = Field(1.0, ge=0, le=2)
    max_tokens: Count | None = 2048
    reasoning_effort: Literal["low", "medium", "high"] | None = "medium"


class Preset(Section):
    """Parameters that a member takes with one click."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    name: dict[Language, str]
    params: Parameters


class UiSettings(Section):
    """How the page behaves until a member chooses otherwise."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=False)

    send_key: Literal["enter", "ctrl-enter"] = Field("enter", description="what sends a message")
    show_reasoning: bool = Field(default=True, description="reasoning unfolded while it comes")
    show_stats: bool = Field(default=True, description="tokens and times under answers")
    flush_ms: int = Field(40, ge=10, le=1000, description="how often the page draws what has come")
    max_attach_kb: Count = Field(256, description="largest text file that can be attached")


class ChatSettings(Section):
    """The web chat. What the page may see is in `PUBLIC_CONFIG_KEYS`; nothing here is a secret."""

    enabled: bool = True
    title: str = "Gatehouse"
    languages: tuple[Language, ...] = ("en", "zh-CN")
    defaults: Defaults = Defaults()
    ranges: dict[str, tuple[float, float]] = Field({}, description="what the page's sliders offer, by parameter")
    presets: tuple[Preset, ...] = ()
    ui: UiSettings = UiSettings()
    max_chats: Count = Field(5000, description="chats a member may keep")
    max_messages: Count = Field(2000, description="messages of one chat")
    max_message_bytes: Bytes = Field(262_144, description="largest message, attached texts included")
    max_runs: Count = Field(8, description="answers being made for one member at the same time")
    max_tabs: Count = Field(32, description="tabs of one member that are connected to one worker")
    replay_seconds: Seconds = Field(600, description="how long the events of an ended answer can be had again")
    save_seconds: Seconds = Field(3, description="how often the text of an answer that is being made is saved")
    wait_seconds: Seconds = Field(1800, description="how long an answer waits for an engine that is not ready")
    keep_deleted_days: Seconds = Field(30, description="how long a deleted chat can be brought back")

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (least, most) in ranges.items():
            if name not in {*RANGES, "max_tokens"}:
                raise ValueError(f"{name}: there are {', '.join(RANGES)}, max_tokens")
            if least >= most:
                raise ValueError(f"{name}: the first must be smaller than the second")
        return ranges


def public(chat: ChatSettings, *, model: str, max_model_len: int, features: dict[str, Any]) -> dict[str, Any]:
    """What the page is told, as static/config.json."""
    ranges: dict[str, Any] = {**RANGES, "max_tokens": (1, max_model_len), **chat.ranges}
    return {
        "title": chat.title,
        "languages": chat.languages,
        "model": model,
        "defaults": chat.defaults.model_dump(mode="json"),
        "ranges": ranges,
        "presets": [{**preset.model_dump(mode="json"), "params": preset.params.said()} for preset in chat.presets],
        "ui": chat.ui.model_dump(mode="json", by_alias=True),
        "limits": {
            "message_bytes": chat.max_message_bytes,
            "chats": chat.max_chats,
            "messages": chat.max_messages,
        },
        "features": features,
    }
