"JupyterLab's splash screen, which a change of theme shows as well."


def no_splash(page):
    """Wait until JupyterLab's splash screen is gone: a change of theme while it fades lets JupyterLab take it away twice.

    A theme that loads shows the splash screen, and 200 ms after it is loaded `document.body.removeChild(splash)` is called. Where a
    second theme is asked for within these 200 ms, this happens twice, and the second call raises "The node to be removed is not a child".
    """
    page.wait_for_function("!document.getElementById('jupyterlab-splash')", timeout=60000)
