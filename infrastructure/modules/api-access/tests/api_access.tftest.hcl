run "the_endpoint_is_private_by_default" {
  command = plan

  assert {
    condition     = output.public == false && output.cidrs == null
    error_message = "the default opens the endpoint"
  }
}

run "an_office_range_opens_it_for_the_office_only" {
  command = plan

  variables {
    api_access_cidrs = ["203.0.113.0/24"]
  }

  assert {
    condition     = output.public && join(",", output.cidrs) == "203.0.113.0/24"
    error_message = "cidrs: ${jsonencode(output.cidrs)}"
  }
}

run "the_whole_world_is_refused" {
  command = plan

  variables {
    api_access_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.api_access_cidrs]
}

run "two_halves_of_the_world_are_refused" {
  command = plan

  variables {
    api_access_cidrs = ["0.0.0.0/1", "128.0.0.0/1"]
  }

  expect_failures = [var.api_access_cidrs]
}

run "what_is_no_range_is_refused" {
  command = plan

  variables {
    api_access_cidrs = ["the office"]
  }

  expect_failures = [var.api_access_cidrs]
}
