"""Writes the API pages, HTML with rendered formulas, from the docstrings.

    pip install -e '.[docs]' && python scripts/api_pages.py [--out=api]

Open api/index.html afterwards. Any warning is an error. Takes a few seconds; formulas are rendered
by MathJax, which the browser loads.
"""

import argparse
import pathlib
import sys
import warnings

import initjax
import initjax.auditing
import initjax.theory

# Only the modules to import from: what is in their parts is shown where it is exported.
MODULES = ("initjax", r"!initjax\..*", "initjax.auditing", "initjax.theory", r"!initjax\.\w+\..*")


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="python scripts/api_pages.py [--out=DIR]", description=__doc__
    )
    parser.add_argument("--out", default="api", help="the directory of the pages")
    out = pathlib.Path(parser.parse_args().out)
    try:
        import pdoc
        import pdoc.render
    except ModuleNotFoundError:
        sys.exit("python scripts/api_pages.py needs pdoc: pip install -e '.[docs]'")
    warnings.simplefilter("error")
    for name in initjax.__all__:
        getattr(initjax, name)  # some are imported at the first use, and pdoc would miss them
    pdoc.render.configure(docformat="google", math=True, footer_text=initjax.__version__)
    pdoc.pdoc(*MODULES, output_directory=out)
    print(f"written to {out / 'index.html'}")


if __name__ == "__main__":
    main()
