"""Context: what exported resources name and what lies in no patient's compartment, such as their Practitioners (law 40)."""
