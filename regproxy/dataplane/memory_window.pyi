from typing import Self, final

@final
class MemoryWindow:
    def __new__(cls) -> Self: ...
