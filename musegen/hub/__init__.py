"""Publishing: models, corpora, the metric and the page, put on the Hub so that they work without this repository.

1. `staging`: a folder with exactly what is sent, made anew from what the user named; nothing else can get in.
2. `checks`: allowed files only, no secrets, licences that allow it, metadata that the Hub's own classes read.
3. `trial`: the folder loaded back in fresh processes, with and without musegen, where it has to make music.
4. `publishing`: sent as one commit, compared with what then lies on the Hub, and tagged.

`cards` makes model cards from measured results. Nothing is imported here, so that the command line starts at once.
"""
