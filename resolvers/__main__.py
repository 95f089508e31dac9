"""Prints the schema into `schema/schema.graphql`; with `--check` only says, in one line, whether that file is out of date."""

import sys
from pathlib import Path

from resolvers.build import build_schema

PRINTED = Path(__file__).parent.parent / "schema" / "schema.graphql"


def main(arguments: list[str]) -> int:
    sdl = build_schema().as_str() + "\n"
    if arguments == ["--check"]:
        if PRINTED.is_file() and PRINTED.read_text() == sdl:
            return 0
        print("schema/schema.graphql is not what the code says: run `make sdl`", file=sys.stderr)
        return 1
    PRINTED.write_text(sdl)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
