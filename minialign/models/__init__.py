"""Models: their names, where they come from, their tokenizers, and loading them.

A model is a folder in MLX layout: ``config.json``, ``model*.safetensors``, ``tokenizer.json`` and
``tokenizer_config.json``. ``fetch.ensure`` turns any name, hub id, folder or file into one.
"""
