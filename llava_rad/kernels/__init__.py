"""Layers of our own for the LLM and the pretraining backbone, which compute what transformers' do.

They keep less for the backward pass and pass over memory less often. Nothing outside this folder
depends on how: a layer is exchanged for one of these, or it is not.
"""
