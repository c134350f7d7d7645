build_guest() { :; }
