"""The small pictures of subjects, kept in memory until a subject's file changes."""

from vectorfit import VectorFitError
from vf_dreambooth.photos import open_photo

from .cards import data_url
from .subjects import Library, Subject

SHOWN_PHOTOS = 6


class SubjectPictures:
    """A picture of every subject: its first photo, or the thumbnail in its file; and the photos to compare with."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._photos: dict[tuple[str, int], list[str]] = {}

    def photos(self, subject: Subject) -> list[str]:
        """The subject's photos as small data URLs; none if they are not here."""
        key = subject.name, subject.file.stat().st_mtime_ns
        if key not in self._photos:
            made = []
            for path in self.library.photos(subject)[:SHOWN_PHOTOS]:
                try:
                    made.append(data_url(open_photo(path)))
                except VectorFitError:
                    continue
            self._photos[key] = made
        return self._photos[key]

    def tiles(self, subjects: list[Subject]) -> dict[str, str]:
        """One picture per subject name, where there is one."""
        found = {}
        for subject in subjects:
            photos = self.photos(subject)
            thumbnail = None if photos else subject.thumbnail()
            if photos or thumbnail:
                found[subject.name] = photos[0] if photos else data_url(thumbnail)
        return found
