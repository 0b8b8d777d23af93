from typing import Self

from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile, Reader

class FileSource(Reader):
    def __new__(cls, file: File, start: int, stop: int, growth: GrowingFile | None = None) -> Self: ...
