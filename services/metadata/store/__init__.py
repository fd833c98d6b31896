"""MongoDB: the collections that this service alone writes."""
