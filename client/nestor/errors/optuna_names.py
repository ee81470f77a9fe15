"""Names that Optuna's users look for, each with what to do here, for the errors about them."""

from __future__ import annotations

# Arguments of functions and of `study.optimize`, and of `study.search` besides.
ARGUMENTS = {
    "study_name": "Pass name=….",
    "storage": "Pass server=…, the address of a Nestor server; without one, the study lives in this process.",
    "directions": "Pass metric=… and direction=…: trials are ranked by one metric.",
    **dict.fromkeys(("metric", "direction"), "Pass it to nestor.create_study."),
    **dict.fromkeys(("sampler", "pruner"), "Pass it to study.search, for what no gradient can tune."),
    "func": "Pass a nestor.Problem as the first argument.",
    "n_trials": "Each call is one trial, which tunes while it trains. Pass n_steps=…, its number of outer steps; "
    "study.search runs several trials.",
    "n_jobs": "Start trials with wait=False; a server runs as many at a time as it has workers. Or use study.search.",
    "catch": "Catch nestor.errors.TrialFailed around the call.",
    "epochs": "Pass n_steps=… and inner_steps=….",
    "lr": "Pass inner=nestor.Adam(lr).",
}
SEARCH_ARGUMENTS = {
    "func": "Pass problem_fn, which returns a nestor.Problem, and the space.",
    "catch": "Trials that fail do not end a search, unless all of them fail.",
}
STUDY_ATTRIBUTES = {
    "best_params": "Use best_hparams.",
    "best_trials": "Use best_trial.",
    **dict.fromkeys(("direction", "metric", "metric_names"), "Use record.metric and record.direction."),
    **dict.fromkeys(("sampler", "pruner"), "They belong to one call of study.search."),
    **dict.fromkeys(
        ("ask", "tell", "enqueue_trial", "add_trial", "add_trials"), "Use optimize(problem, n_steps), or search."
    ),
    **dict.fromkeys(("system_attrs", "set_system_attr"), "Use user_attrs and set_user_attr, or tags and set_tags."),
    **dict.fromkeys(("load_weights", "hparams", "steps"), "Trials have it, such as study.best_trial."),
}

TRIAL_ATTRIBUTES = {
    **dict.fromkeys(("params", "distributions"), "Use hparams, the values, or spec, the options."),
    **dict.fromkeys(
        ("suggest_float", "suggest_int", "suggest_categorical"),
        "Hyperparameters are tuned while the model trains: declare them in nestor.Problem(model, hparams, …).",
    ),
    **dict.fromkeys(
        ("report", "should_prune"), "In a callback, read trial.last_step, and return nestor.PRUNE to prune the trial."
    ),
    **dict.fromkeys(("intermediate_values", "losses", "history"), "Use steps."),
    "best_params": "Use best_hparams.",
    **dict.fromkeys(
        ("duration", "datetime_start", "datetime_complete"),
        "Use record.started_at, record.finished_at, and record.seconds, the time in which it trained.",
    ),
    **dict.fromkeys(("system_attrs", "set_system_attr"), "Use user_attrs and set_user_attr, or tags and set_tags."),
}
