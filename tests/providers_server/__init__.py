"""A fake of every provider's API that misbehaves on request, with a journal that tells the truth."""
