"""Plotly's widget, mended; what it mends is seen in test_browser.py."""

import plotly.graph_objects as go
import pytest

from workbench.notebook.live_figure import live_figure


@pytest.fixture
def fresh():
    live_figure.cache_clear()
    yield live_figure
    live_figure.cache_clear()


def test_it_is_plotlys_with_more_at_the_end_of_its_script():
    made = live_figure()
    assert issubclass(made, go.FigureWidget) and made is not go.FigureWidget
    own, mended = str(go.FigureWidget._esm), str(made._esm)
    assert mended.startswith(own) and ".gone" in mended[len(own) :]
    figure = made([go.Scatter(y=[1, 2])])
    figure.data[0].y = [3, 4]
    assert tuple(figure.data[0].y) == (3, 4)


def test_another_script_is_left_as_it_is(fresh, monkeypatch):
    monkeypatch.setattr(go.FigureWidget, "_esm", "export default { render() {} };")
    assert fresh() is go.FigureWidget
