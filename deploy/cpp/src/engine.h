// What an inference engine has to offer. Each program is linked with one implementation.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace segment {

/// Values (N, C, H, W) of an image batch or (N, K, h, w) of logits.
struct Tensor {
  std::array<int, 4> shape{};
  std::vector<float> values;

  std::size_t item_size() const { return static_cast<std::size_t>(shape[1]) * shape[2] * shape[3]; }
};

struct EngineOptions {
  std::string device = "cpu";  // cpu, gpu or gpu:1
  int threads = 1;             // on the CPU
};

class Engine {
 public:
  virtual ~Engine() = default;

  /// Runs the network; throws std::exception if the engine fails.
  virtual Tensor run(const Tensor& input) = 0;

  /// Returns the engine's name and version.
  virtual std::string description() const = 0;
};

/// The artefacts of an export that the engine reads, best first.
extern const std::vector<std::string> kEngineArtefacts;

/// Loads a network from the files of an artefact; throws Error for a device it does not have.
std::unique_ptr<Engine> make_engine(const std::vector<std::filesystem::path>& files,
                                    const EngineOptions& options);

}  // namespace segment
