build_tiny() { :; }
