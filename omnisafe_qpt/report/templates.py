# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The templates of reports: one run as HTML, and the benchmarks' tables as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from jinja2 import Template


def open_template(
    package: str,
    name: str,
    *,
    escapes: bool,
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> Template:
    """Open a template that is a file of a package.

    Args:
        package (str): The package.
        name (str): The file.
        escapes (bool): Whether values are escaped for HTML.
        filters (Mapping[str, Callable], optional): More filters. Defaults to none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, '.'),
        autoescape=escapes,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)
