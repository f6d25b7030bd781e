"""From text to token ids and back: tokenizers, vocabularies, chat templates."""
