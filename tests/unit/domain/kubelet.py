"""How the kubelet expands `$(NAME)` in a container's command, arguments and environment.

`$$` is an escaped `$`; `$(NAME)` is the variable's value, or itself if there is none of that name; a `$`
before anything else is just that, and so is a `$(` without a `)`.
"""

from collections.abc import Mapping


def expand(text: str, variables: Mapping[str, str]) -> str:
    result = ""
    cursor = 0
    while cursor < len(text):
        character = text[cursor]
        after = text[cursor + 1 : cursor + 2]
        closing = text.find(")", cursor)
        if character != "$" or not after:
            result += character
            cursor += 1
        elif after == "$":
            result += "$"
            cursor += 2
        elif after == "(" and closing >= 0:
            name = text[cursor + 2 : closing]
            result += variables.get(name, f"$({name})")
            cursor = closing + 1
        else:
            result += "$" + after
            cursor += 2
    return result
