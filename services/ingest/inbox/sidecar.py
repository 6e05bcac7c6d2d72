"""Sidecars, such as `data.yaml` beside `data.jsonl`: names and values.

Only `columns` is nested, once.
"""

from pathlib import Path
from typing import Any

import yaml

from services.ingest.reading.row_error import RowError, Unreadable
from shared.sidecar_names import sidecars_among, stem_of

MOST_BYTES = 64 << 10
COLUMNS = "columns"
FORM = "A sidecar holds one `name: value` on each line, such as `learning_rate: 2e-4`."


def stems_for(data: str) -> list[str]:
    """Return the stems that the sidecar of a data file may have, the best first."""
    return list(dict.fromkeys([stem_of(data), data]))


def belongs(sidecar: str, data: str) -> bool:
    """Return whether the sidecar is that of this data file, by their names."""
    return bool(sidecars_among([sidecar], stems_for(data)))


def differs_in_case(sidecar: str, data: str) -> bool:
    """Return whether a sidecar would be that of this data file if upper and lower case were one."""
    return belongs(sidecar.casefold(), data.casefold())


def sidecar_values(path: Path) -> dict[str, Any]:
    """Return the values in a sidecar by name. Raises Unreadable, OSError."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise refused("too_long", f"The sidecar is longer than {MOST_BYTES} bytes. {FORM}")
    loader = None
    try:
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        return {} if node is None else sidecar_scalars(loader, node)
    except UnicodeDecodeError as error:
        raise refused("utf8", "The sidecar is not valid UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise refused("yaml", f"The sidecar is not valid YAML: {error.problem}.", line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = str(error).partition("\n")[0][:200]
        raise refused("yaml", f"The sidecar is not valid YAML: {why}.") from error
    finally:
        if loader is not None:
            loader.dispose()


def sidecar_scalars(loader: yaml.SafeLoader, node: yaml.Node) -> dict[str, Any]:
    """Return the names and values of a sidecar, which must be scalars.

    An alias or a list may hold more than it seems. Raises Unreadable.
    """
    if not isinstance(node, yaml.MappingNode):
        raise refused("yaml", FORM, node.start_mark.line + 1)
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        nested = key.value == COLUMNS and isinstance(value, yaml.MappingNode)
        if not isinstance(key, yaml.ScalarNode) or not (
            nested or isinstance(value, yaml.ScalarNode)
        ):
            raise refused("yaml", f"`{str(key.value)[:40]}` has more than one value. {FORM}", line)
        if key.value in found:
            raise refused(
                "duplicate_key", f"`{key.value[:40]}` is given twice. Keep one of them.", line
            )
        if nested:
            found[key.value] = columns_in(value)
            continue
        plain = loader.construct_object(value)
        found[key.value] = plain if isinstance(plain, bool | int | float | str) else value.value
    return found


def columns_in(node: yaml.MappingNode) -> dict[str, str | list[str]]:
    """Return the columns that a sidecar names; `ignore` may list several. Raises Unreadable."""
    found: dict[str, str | list[str]] = {}
    for key, value in node.value:
        listed = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(each, yaml.ScalarNode) for each in (key, *listed)):
            message = 'Each column has one name, such as `columns: {prompt: "Question"}`.'
            raise refused("yaml", message, key.start_mark.line + 1)
        names = [each.value for each in listed]
        found[key.value] = names if isinstance(value, yaml.SequenceNode) else names[0]
    return found


def refused(rule: str, message: str, line: int | None = None) -> Unreadable:
    return Unreadable(RowError("sidecar", rule, message), line)
