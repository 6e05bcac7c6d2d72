from shared import settings


def test_no_setting_of_today_has_the_name_of_a_retired_one() -> None:
    models = (getattr(settings, name) for name in dir(settings) if name.endswith("Settings"))
    known = {f"DURAMEN_{field.upper()}" for model in models for field in model.model_fields}
    assert "DURAMEN_SETTLE_SECONDS" in known
    assert known.isdisjoint(settings.RETIRED)
