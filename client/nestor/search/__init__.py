"""Optuna's samplers and pruners over what gradients cannot tune; `Study.search` is the way in. Needs optuna."""
