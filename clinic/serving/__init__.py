"""The service: a model that answers programs by the Open Inference Protocol, and people by page."""
