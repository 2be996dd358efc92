"""What HL7's definitions say, as data, and what follows from them.

`definitions` holds the generated tables of R4, R4B and R5; `generate` makes them. `compartments` tells where a resource
lies. `criteria` parses a search query and `matching` applies it; `elements` does the same for `_elements`.
"""
