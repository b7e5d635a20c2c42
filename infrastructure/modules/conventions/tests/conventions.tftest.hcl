variables {
  environment = "dev"
  account_id  = "123456789012"
}

run "names_join_project_and_environment" {
  command = plan

  assert {
    condition     = output.name == "llm-dev"
    error_message = "name is ${output.name}"
  }

  assert {
    condition     = output.bucket_names.models == "llm-dev-models-123456789012"
    error_message = "models bucket is ${output.bucket_names.models}"
  }
}

run "the_longest_allowed_names_stay_below_the_limit_of_s3" {
  command = plan

  variables {
    project     = "abcdefghijklmn"
    environment = "abcdefghijkl"
  }

  assert {
    condition     = alltrue([for name in values(output.bucket_names) : length(name) <= 63])
    error_message = "a bucket name is longer than 63 characters: ${join(", ", values(output.bucket_names))}"
  }
}

run "the_gpu_pool_is_tainted_and_its_toleration_matches" {
  command = plan

  assert {
    condition     = output.pools.gpu.taints["nvidia-com-gpu"].effect == "NO_SCHEDULE"
    error_message = "GPU taint: ${jsonencode(output.pools.gpu.taints)}"
  }

  assert {
    condition     = output.pools.gpu.tolerations[0].key == output.pools.gpu.taints["nvidia-com-gpu"].key
    error_message = "the toleration names another key than the taint"
  }

  assert {
    condition     = length(output.pools.system.taints) == 0
    error_message = "the system pool must take every pod"
  }
}

run "every_component_carries_the_environment" {
  command = plan

  assert {
    condition     = alltrue([for tags in values(output.component_tags) : tags[output.environment_tag] == "dev"])
    error_message = "a component has no environment tag"
  }
}

run "an_environment_with_a_capital_is_refused" {
  command = plan

  variables {
    environment = "Dev"
  }

  expect_failures = [var.environment]
}

run "an_account_that_is_not_twelve_digits_is_refused" {
  command = plan

  variables {
    account_id = "1234"
  }

  expect_failures = [var.account_id]
}
