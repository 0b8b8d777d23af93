"""Long work that somebody begins and looks after later: purges, checks, warming."""
