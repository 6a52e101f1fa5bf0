"""Small tables for notebooks: everything in them is escaped, for symbols are whatever a deployer chose."""

from collections.abc import Iterable, Sequence


def html_table(
    caption: str, rows: Iterable[Sequence[object]], head: Sequence[str] | None = None
) -> str:
    """A table of HTML. Without a `head` the first cell of each row is its heading."""
    from html import escape  # only notebooks need it

    lines = ["<table>", f"<caption>{escape(caption)}</caption>"]
    if head is not None:
        lines.append(f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>")
    for row in rows:
        tags = ["th" if head is None and place == 0 else "td" for place in range(len(row))]
        cells = [f"<{tag}>{escape(str(cell))}</{tag}>" for tag, cell in zip(tags, row, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])
