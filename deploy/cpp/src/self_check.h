// An engine against the labels that an export holds for its fixture image.
#pragma once

#include <string>

#include "deploy_config.h"
#include "engine.h"

namespace segment {

/// Runs the fixture on the way that deploy.yaml describes; returns the result in one line.
/// Throws Error where too few labels agree, or where there is no whole fixture.
std::string self_check(const DeployConfig& deploy, Engine& engine, int max_side_px);

}  // namespace segment
