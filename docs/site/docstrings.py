"""How the docstrings of fmjax are read: an extension of griffe, which mkdocs.yml names."""

import re

import griffe
import pages
import text


class Docstrings(griffe.Extension):
    """Brings docstrings into the form that the documentation's parser knows."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Names the section of examples in the plural, and makes keys of papers references."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Gives a function that has the name of its file, `metrics.calibration`, that name."""
        for module in pkg.modules.values():
            public = [module.members[str(name)] for name in module.exports or ()]
            files = [one for one in public if isinstance(one, griffe.Module)]
            twins = [file for file in files if file.name in file.members]
            for one in public if twins else ():
                if one.is_alias:  # while the names of the files still stand
                    one.resolve_target()
            for one in twins:
                alias = griffe.Alias(one.name, target=one.members[one.name], parent=module)
                module.set_member(one.name, alias)
                self.on_object(obj=one.members[one.name])  # no longer found by the name of its file


def readable(docstring: str) -> str:
    """Returns a docstring with its lists, examples and references as the parser wants them."""
    value = re.sub(r"^Example:$", "Examples:", docstring, flags=re.M)
    value = re.sub(r"^References?:\n((?:[ ].*\n?|\n)+)", _references, value, flags=re.M)
    # A colon in the first line of what is returned would be taken for the end of its type.
    value = re.sub(r"(?<=^Returns:\n)(  [^\n]*?):(?=\s)", r"\1&#58;", value, flags=re.M)
    return text.four_columns(text.functions(text.citations(value), pages.public()))


def _references(section: re.Match[str]) -> str:
    """Returns the references as a paragraph, one on each line."""
    lines = re.sub(r"([.\]])\n(?= )", r"\1<br>\n", section[1].rstrip()).split("\n")
    title = section[0].split(":")[0]
    return f"**{title}**\n\n" + "\n".join(line.strip() for line in lines) + "\n"
