"""The audit of a model's initialization, and its repair: see `initjax.audit` and `initjax.fix`."""
