// The part of Paddle Inference that the wheel `paddlepaddle` exports but ships no header for.
//
// Declared from the symbols of its libpaddle.so (`nm -DC`), of the versions that CMakeLists.txt
// names: the layouts below are theirs. Builds against the official package use its own header.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace paddle {

class AnalysisConfig {
 public:
  enum class Precision { kFloat32 = 0, kInt8, kHalf, kBf16 };

  AnalysisConfig(const std::string& program_file, const std::string& weights_file);
  AnalysisConfig(const AnalysisConfig&) = delete;
  AnalysisConfig& operator=(const AnalysisConfig&) = delete;
  ~AnalysisConfig();

  void DisableGlogInfo();
  void DisableGpu();
#ifdef SEGMENT_PADDLE_2
  void EnableMKLDNN();  // oneDNN's name before
#else
  void EnableONEDNN();
  void DisableONEDNN();
  void DeletePass(const std::string& name);
#endif
  void EnableUseGpu(std::size_t memory_mib, int device_id, Precision precision);
  void SetCpuMathLibraryNumThreads(int num_threads);

 private:
  // More than the object's size, about 1.6 KiB: its constructor fills it, nothing here looks in.
  alignas(std::max_align_t) std::byte storage_[64 * 1024];
};

}  // namespace paddle

namespace paddle_infer {

using Config = paddle::AnalysisConfig;
using PrecisionType = Config::Precision;

class Tensor {
 public:
  Tensor() = delete;  // only the library makes and knows them
  void Reshape(const std::vector<int>& shape);
  std::vector<int> shape() const;
  template <typename T>
  void CopyFromCpu(const T* data);
  template <typename T>
  void CopyToCpu(T* data) const;
};

extern template void Tensor::CopyFromCpu<float>(const float*);
extern template void Tensor::CopyToCpu<float>(float*) const;

/// The library exports no way to delete a handle, so that one is kept for the program's life.
struct KeepHandle {
  void operator()(Tensor*) const {}
};

class Predictor {
 public:
  Predictor() = delete;
  std::vector<std::string> GetInputNames();
  std::vector<std::string> GetOutputNames();
  std::unique_ptr<Tensor, KeepHandle> GetInputHandle(const std::string& name);
  std::unique_ptr<Tensor, KeepHandle> GetOutputHandle(const std::string& name);
  bool Run();
};

std::shared_ptr<Predictor> CreatePredictor(const Config& config);
std::string GetVersion();

}  // namespace paddle_infer
