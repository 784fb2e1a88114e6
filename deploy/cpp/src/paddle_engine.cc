// Paddle Inference, from its official package or from the wheel of `paddlepaddle`.
#include <array>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <sstream>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "engine.h"
#include "error.h"
#include "files.h"

#ifdef SEGMENT_PADDLE_INFERENCE
#include "paddle_inference_api.h"
#else
#include "paddle_abi.h"
#endif

namespace segment {

const std::vector<std::string> kEngineArtefacts = {"paddle"};

namespace {

namespace infer = paddle_infer;

constexpr int kGpuMemoryMib = 256;  // taken at the start; grows as needed
#ifdef SEGMENT_PADDLE_HAS_GPU
constexpr bool kHasGpu = true;
#else
constexpr bool kHasGpu = false;
#endif

/// Returns what Paddle says last of an error, without its stack.
std::string reason_of(const std::exception& error) {
  std::istringstream lines(error.what());
  std::string last;
  for (std::string line; std::getline(lines, line);)
    if (!one_line(line).empty()) last = one_line(line);
  return last;
}

/// Has matrix products use all of an AMD processor's vector units: the MKL of 2019 inside Paddle
/// takes code for SSE there unless this variable names another (see processor.py).
void use_wide_vectors() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (!__builtin_cpu_is("amd")) return;
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  constexpr int kKeepsUsersValue = 0;
  if (has_avx512 || has_avx2)
    setenv("MKL_DEBUG_CPU_TYPE", has_avx512 ? "7" : "5", kKeepsUsersValue);
#endif
}

/// Has glibc keep large blocks that are freed: else each large tensor of a pass is mapped and
/// zeroed by the system anew (see memory.py).
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
}

/// Returns a number of a message in protobuf's form, seven bits a byte; `at` moves behind it.
std::uint64_t read_varint(const Bytes& content, std::size_t& at, std::size_t end) {
  std::uint64_t value = 0;
  for (int shift = 0; at < end && shift < 64; shift += 7) {
    const std::uint8_t byte = content[at++];
    value |= std::uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80) break;
  }
  return value;
}

/// Refuses weights that are not finite, which Paddle passes over; what is damaged is left to
/// Paddle.
///
/// Arrays lie one after the other. Each begins with 16 bytes of versions and levels and the length
/// of a description (type and sides in protobuf's form).
void check_weights(const std::filesystem::path& path) {
  constexpr std::uint64_t kFloat32 = 5;
  // bytes of a number by its type: bool, 16, 32 and 64 bits, float16, float32, float64
  constexpr std::array<std::size_t, 7> kBytes = {1, 2, 4, 8, 2, 4, 8};
  if (std::error_code ignored; std::filesystem::file_size(path, ignored) == 0) return;
  const Bytes content = read_bytes(path);
  std::size_t at = 0;
  for (int index = 0; at + 20 <= content.size(); ++index) {
    std::uint32_t length = 0;
    std::memcpy(&length, &content[at + 16], sizeof length);
    at += 20;
    if (length > content.size() - at) return;
    const std::size_t end = at + length;
    std::uint64_t type = kBytes.size(), count = 1;
    while (at < end) {
      const std::uint64_t tag = read_varint(content, at, end);
      if (tag == 0x08) type = read_varint(content, at, end);
      if (tag == 0x10) count *= read_varint(content, at, end);
      if (tag != 0x08 && tag != 0x10) return;
    }
    if (type >= kBytes.size() || count > (content.size() - at) / kBytes[type]) return;
    for (std::size_t item = 0; type == kFloat32 && item < count; ++item) {
      float value = 0;
      std::memcpy(&value, &content[at + item * sizeof value], sizeof value);
      if (!std::isfinite(value))
        fail(path.string(), ": its weights '", index,
             "' are not finite (NaN or infinite). Export a model whose weights are.");
    }
    at += count * kBytes[type];
  }
}

/// Returns the number in gpu or gpu:1, or -1 for another name.
int gpu_index(const std::string& device) {
  if (device == "gpu") return 0;
  const bool is_numbered = device.size() == 5 && device.rfind("gpu:", 0) == 0;
  return is_numbered && device[4] >= '0' && device[4] <= '9' ? device[4] - '0' : -1;
}

void set_device(infer::Config& config, const EngineOptions& options,
                const std::filesystem::path& program) {
#ifdef SEGMENT_PADDLE_2
  if (program.extension() == ".json")  // it would crash
    fail(program.string(),
         ": a program of Paddle 3, but this build has Paddle 2. Export the model ",
         "with Paddle 2, or build with Paddle 3.");
#endif
  if (options.device == "cpu") {
    config.DisableGpu();
    config.SetCpuMathLibraryNumThreads(options.threads);
#ifdef SEGMENT_PADDLE_2
    config.EnableMKLDNN();
#else
    // oneDNN makes what Paddle fuses faster. With the placement pass it takes all operators, and
    // Paddle 3.3.1 fails on its bilinear resizing. Fusions of Paddle 2's programs need that pass.
    if (program.extension() == ".pdmodel") {
      config.DisableONEDNN();
    } else {
      config.EnableONEDNN();
      config.DeletePass("onednn_placement_pass");
    }
#endif
  } else if (const int index = gpu_index(options.device); kHasGpu && index >= 0) {
    config.EnableUseGpu(kGpuMemoryMib, index, infer::PrecisionType::kFloat32);
  } else {
    fail("--device: found '", options.device, "', but this build offers cpu",
         kHasGpu ? " and gpu." : " alone.");
  }
}

class PaddleEngine : public Engine {
 public:
  PaddleEngine(const std::vector<std::filesystem::path>& files, const EngineOptions& options)
      : config_(files.at(0).string(), files.at(1).string()) {
    use_wide_vectors();
    keep_freed_memory();
    config_.DisableGlogInfo();
    set_device(config_, options, files.at(0));
#ifdef SEGMENT_PADDLE_INFERENCE
    config_.EnableNewExecutor();  // without these two, memory optimisation fails
    config_.EnableNewIR();
    config_.EnableMemoryOptim();
#endif
    predictor_ = infer::CreatePredictor(config_);
    input_ = predictor_->GetInputHandle(predictor_->GetInputNames().at(0));
    output_ = predictor_->GetOutputHandle(predictor_->GetOutputNames().at(0));
  }

  Tensor run(const Tensor& input) override {
    try {
      input_->Reshape({input.shape.begin(), input.shape.end()});
      input_->CopyFromCpu(input.values.data());
      predictor_->Run();
      const std::vector<int> shape = output_->shape();
      Tensor output{{shape.at(0), shape.at(1), shape.at(2), shape.at(3)}, {}};
      output.values.resize(output.shape[0] * output.item_size());
      output_->CopyToCpu(output.values.data());
      return output;
    } catch (const std::exception& error) {
      fail("Paddle Inference failed: ", reason_of(error));
    }
  }

  std::string description() const override {
    const std::string version = infer::GetVersion();
    std::istringstream words(version);
    std::string name, number;
    words >> name >> number;
    return "Paddle Inference " + number;
  }

 private:
  infer::Config config_;
  std::shared_ptr<infer::Predictor> predictor_;
  decltype(predictor_->GetInputHandle("")) input_;
  decltype(predictor_->GetOutputHandle("")) output_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const std::vector<std::filesystem::path>& files,
                                    const EngineOptions& options) {
  try {
    if (files.size() > 1) check_weights(files.at(1));
    return std::make_unique<PaddleEngine>(files, options);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(files.at(0).string(), ": Paddle Inference cannot load it: ", reason_of(error));
  }
}

}  // namespace segment
