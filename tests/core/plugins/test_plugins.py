from __future__ import annotations

import pytest

from ferrule import Architecture, WeightAdapter
from ferrule.errors import ConfigError, PluginError
from ferrule.plugins import Plugin, Plugins


def adapter(name):
    return WeightAdapter(name=name, matches=lambda checkpoint: False, names={})


def architecture(name):
    return Architecture(name=name, matches=bool, configure=bool, build=bool)


def plugin(distribution, *adapters, version="1.0", architectures=()):
    return Plugin(
        distribution=distribution,
        version=version,
        entry_point="it",
        weight_adapters=adapters,
        architectures=architectures,
    )


def test_offers_are_found_by_name_in_one_order_whatever_the_plugins():
    a, b, c = adapter("a"), adapter("b"), architecture("c")
    plugins = [plugin("x", b, architectures=(c,)), plugin("y", a)]
    for order in (plugins, plugins[::-1]):
        found = Plugins(tuple(order))
        assert list(found.weight_adapters.items()) == [("a", a), ("b", b)]
        assert found.architectures == {"c": c}


def test_the_origin_of_an_offer_is_its_distribution_and_version():
    a, c = adapter("a"), architecture("c")
    plugins = Plugins((plugin("x", a), plugin("y", version="2", architectures=(c,))))
    assert plugins.origin(a) == "x 1.0"
    assert plugins.origin(c) == "y 2"


def test_an_architecture_and_a_weight_adapter_may_share_a_name():
    plugins = Plugins((plugin("x", adapter("gemma"), architectures=(architecture("gemma"),)),))
    assert plugins.architectures.keys() == plugins.weight_adapters.keys()


def test_a_name_offered_twice_is_an_error_naming_both():
    with pytest.raises(PluginError, match=r"architecture 'c': x 1\.0 .* and y 1\.0"):
        Plugins(
            (
                plugin("x", architectures=(architecture("c"),)),
                plugin("y", architectures=(architecture("c"),)),
            )
        )


def test_a_name_offered_twice_by_one_plugin_is_an_error():
    with pytest.raises(PluginError, match=r"weight adapter 'a': x 1\.0 .* and x 1\.0"):
        Plugins((plugin("x", adapter("a"), adapter("a")),))


def test_installed_raises_what_is_broken(install):
    install("ferrule-test-broken", "1 / 0")
    with pytest.raises(PluginError, match=r"of ferrule-test-broken 1\.2 cannot be imported"):
        Plugins.installed()


def test_installed_raises_everything_that_is_broken_at_once(install, tmp_path):
    install("ferrule-test-broken", "1 / 0")
    with pytest.raises(PluginError, match="2 plugin errors") as error:
        Plugins.installed([tmp_path / "gone.py"])
    assert "ferrule-test-broken" in error.value.message
    assert "gone.py" in error.value.message


def test_installed_takes_files(good, install, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(good("from-file"))
    plugins = Plugins.installed([file])
    assert plugins.origin(plugins.weight_adapters["from-file"]) == f"file {file}"


def test_a_mistake_in_a_plugins_function_names_its_distribution():
    a = adapter("a")
    plugins = Plugins((plugin("x", a),))
    with (
        pytest.raises(
            PluginError, match=r"'a' of x 1\.0 failed in matches: KeyError: 'k'"
        ) as error,
        plugins.calling(a, "matches"),
    ):
        raise KeyError("k")
    assert isinstance(error.value.__cause__, KeyError)


def test_an_error_for_people_passes_through():
    a = adapter("a")
    with (
        pytest.raises(ConfigError, match="no such rope"),
        Plugins((plugin("x", a),)).calling(a, "c"),
    ):
        raise ConfigError("no such rope")
