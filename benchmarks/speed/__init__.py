"""Speed, memory and agreement of engines, in one interleaved run; see docs/performance.md."""
