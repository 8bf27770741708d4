"""The five stages: each is `run(space, machine, paths)`, and they speak through files only."""
