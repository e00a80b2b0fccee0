"""The one reader of a store's JSON files: what it returns has the shape that was asked for."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import EnvironmentProblem
from ..machine.files import json_bytes, read_regular, sha256_hex


def read_json(path: Path, shape: type[BaseModel], remedy: str, *, sealed: bool = False) -> Any:
    """The content of a JSON file, which has the shape.

    Args:
        remedy: what to do if the file is damaged, for the message.
        sealed: whether the file ends in the digest of the rest (`seal`).

    Raises:
        EnvironmentProblem: the file is missing or is not what was written.
    """
    return parse_json(path, read_regular(path, remedy), shape, remedy, sealed=sealed)


def parse_json(
    path: Path, content: bytes, shape: type[BaseModel], remedy: str, *, sealed: bool = False
) -> Any:
    """As `read_json`, of a file that has been read."""
    try:
        try:
            value = _DECODER.decode(content.decode())
        except ValueError:
            raise ValueError("is not valid JSON") from None
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        if sealed and not _matches(content, value, value.pop("sha256", None)):
            raise ValueError("does not match its sha256")
        try:
            shape.model_validate(value)
        except ValidationError as error:
            raise ValueError(f"is not what fasttrain writes ({_first(error)})") from None
    except RecursionError:
        raise EnvironmentProblem(f"{path}: is nested too deeply; {remedy}") from None
    except ValueError as error:
        raise EnvironmentProblem(f"{path}: {error}; {remedy}") from None
    return value


def _matches(content: bytes, value: dict[str, Any], digest: Any) -> bool:
    """Whether the digest is that of the rest."""
    # As it was written, which spares making it anew: in a large store half of all reading.
    before, line, after = content.partition(f'\n "sha256": "{digest}",\n'.encode())
    if line and sha256_hex(before + b"\n" + after) == digest:
        return True
    return sha256_hex(json_bytes(value)) == digest


def seal(content: dict[str, Any]) -> bytes:
    """A JSON object that ends in the digest of the rest."""
    return json_bytes({**content, "sha256": sha256_hex(json_bytes(content))})


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _first(error: ValidationError) -> str:
    """The first thing that has another shape, in one line."""
    fault = error.errors()[0]
    where = ascii(".".join(map(str, fault["loc"])))[1:-1]
    return f"{where[:60]}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
