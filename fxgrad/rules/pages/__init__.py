"""The rules' pages, one for each code, in the order of the codes."""

from __future__ import annotations

from fxgrad.rules.page import Page
from fxgrad.rules.pages.attachment import ATTACHMENT_PAGES
from fxgrad.rules.pages.calls import CALLS_PAGES
from fxgrad.rules.pages.firing import FIRING_PAGES
from fxgrad.rules.pages.full_hooks import FULL_HOOKS_PAGES
from fxgrad.rules.pages.gradients import GRADIENTS_PAGES
from fxgrad.rules.pages.moments import MOMENTS_PAGES
from fxgrad.rules.pages.tools import TOOLS_PAGES

PAGES: dict[str, Page] = {
    page.code: page
    for page in sorted(
        (
            *ATTACHMENT_PAGES,
            *FIRING_PAGES,
            *FULL_HOOKS_PAGES,
            *CALLS_PAGES,
            *MOMENTS_PAGES,
            *GRADIENTS_PAGES,
            *TOOLS_PAGES,
        ),
        key=lambda page: page.code,
    )
}
