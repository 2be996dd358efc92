"""What HL7's definitions say, as data: compartments, search parameters, elements; and search criteria over them."""
