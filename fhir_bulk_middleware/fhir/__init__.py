"""FHIR itself: HL7's definitions as data, resources, references, compartments and search.

`definitions` reads the generated tables of R4, R4B and R5. `compartments` computes the compartments of a resource. `elements`
applies `_elements`. `search.criteria` parses a search query, `search.matching` applies it.
"""
