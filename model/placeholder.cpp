namespace jambalaya {}
