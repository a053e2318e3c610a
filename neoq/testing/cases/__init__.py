"""The cases of `neoq.testing.BackendConformance`, one file for each group of promises."""

import pytest

# Before any of them is imported: pytest then shows the values in an assertion that fails.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in (
            *("suite", "payloads", "unique", "timing", "capacity", "retries", "interrupts"),
            *(
                "operating",
                "listening",
                "periodic",
                "endings",
                "seam",
                "durable",
                "options",
                "filters",
                "waiting",
                "audit",
            ),
        )
    )
)
