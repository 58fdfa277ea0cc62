"""One spelling for one image: paths as annotations write them, brought to a common form."""

import posixpath
import unicodedata


def one_spelling(path: str) -> str:
    """A path or id in the form in which all ways to write it are equal.

    Its letters are composed (NFC; macOS lists names decomposed), its separators are single
    slashes, and `.` and `..` are resolved. A URL keeps its slashes.
    """
    path = unicodedata.normalize("NFC", path)
    if "://" in path or not path:
        return path
    path = posixpath.normpath(path.replace("\\", "/"))
    return "/" + path.lstrip("/") if path.startswith("/") else path
