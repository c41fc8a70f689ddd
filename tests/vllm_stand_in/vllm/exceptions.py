class VLLMValidationError(Exception):
    """Of a request."""
