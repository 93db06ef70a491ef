"""The smallest JSON value that a JSON Schema accepts, for `response_format` and tool arguments."""

from __future__ import annotations

from typing import Any

_DEEPEST = 32


def minimal(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A value that satisfies `schema`. Handles what function schemas use; an unknown keyword is not enforced."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return {}
    if "$ref" in schema:
        return minimal(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return minimal(schema[union][0], root, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged.update(_resolve(part["$ref"], root) if "$ref" in part else part)
        return minimal(merged, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    match kind or ("object" if "properties" in schema else "string"):
        case "object":
            properties = schema.get("properties", {})
            needed = schema.get("required", list(properties))
            return {name: minimal(properties.get(name, {}), root, depth + 1) for name in needed}
        case "array":
            return [minimal(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))]
        case "integer":
            return int(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
        case "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "simulated".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 1 << 20)]


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for step in filter(None, reference.removeprefix("#").split("/")):
        found = found.get(step, {}) if isinstance(found, dict) else {}
    return found
