"""What JSON Schema cannot say, told to schemathesis: it would take these for faults of the gateway."""

import schemathesis

NAME_BYTES_MAX = 128


def whole(value):
    """The value without whole numbers that are written with a fraction: to JSON Schema 7.0 is an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    return [whole(entry) for entry in value] if isinstance(value, list) else value


@schemathesis.hook
def map_body(context, body):
    return whole(body)


def is_short(value) -> bool:
    """Whether no text outside the payload has more bytes than a name may have: JSON Schema counts characters."""
    if isinstance(value, str):
        return len(value) > NAME_BYTES_MAX or len(value.encode(errors="replace")) <= NAME_BYTES_MAX
    if isinstance(value, dict):
        return all(is_short(member) for name, member in value.items() if name != "payload")
    return all(map(is_short, value)) if isinstance(value, list) else True


@schemathesis.hook
def filter_body(context, body):
    return is_short(body)


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    return is_short(path_parameters)
