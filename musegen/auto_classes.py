"""What `import musegen` adds to transformers' Auto classes: shipped names, and the LSTM once a model is asked for.

Importing this module is light. `musegen.models`, which takes seconds with all of torch behind it, is imported when a
configuration names an architecture that transformers does not know: writing music with a GPT-2 does without.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from musegen.shipped import teach

teach(AutoConfig, rescue="musegen.models")
teach(AutoModel, AutoModelForCausalLM)
