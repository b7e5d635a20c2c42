variables {
  zone_letters = ["a", "b", "d"]
}

run "dev_has_one_group_per_pool_in_the_first_zone" {
  command = plan

  variables {
    environment = "dev"
  }

  assert {
    condition     = join(" ", keys(output.system)) == "a" && join(" ", keys(output.gpu)) == "a"
    error_message = "zones: ${jsonencode(keys(output.system))}, ${jsonencode(keys(output.gpu))}"
  }
}

run "prod_has_one_group_per_zone_whose_sizes_add_up" {
  command = plan

  variables {
    environment = "prod"
  }

  assert {
    condition     = join(" ", keys(output.gpu)) == "a b d"
    error_message = "zones: ${jsonencode(keys(output.gpu))}"
  }

  assert {
    condition = alltrue([
      for bound, nodes in yamldecode(file("../../node-groups.yaml")).prod.gpu.size :
      sum([for group in values(output.gpu) : group.size[bound]]) == nodes
    ])
    error_message = "sizes: ${jsonencode([for group in values(output.gpu) : group.size])}"
  }

  assert {
    condition     = alltrue([for group in concat(values(output.gpu), values(output.system)) : group.size.max >= 1])
    error_message = "EKS refuses a node group whose max is 0: ${jsonencode(output.gpu)}"
  }
}

run "an_environment_without_node_groups_is_refused" {
  command = plan

  variables {
    environment = "staging"
  }

  expect_failures = [var.environment]
}
