# Text of made-up words, a tokenizer of 300 ids and encoded documents, for tests of the program. Sourced; uses $jambalaya.

# made_up_data DOCUMENTS WORDS: text.txt, tokenizer.json and data/ in the current folder, the same every time.
made_up_data() {
  awk -v documents="$1" -v words="$2" 'BEGIN {
    x = 1
    for (d = 0; d < documents; d++) {
      for (w = 0; w < words; w++) {
        x = (x * 16807) % 2147483647
        word = ""
        for (l = x % 5; l >= 0; l--) word = word substr("etaoinshrdlu", (int(x / 7 ^ l) % 12) + 1, 1)
        printf "%s ", word
      }
      print "\n"
    }
  }' >text.txt
  "$jambalaya" tokenizer train --vocab-size 300 --threads 1 --output tokenizer.json text.txt
  "$jambalaya" data encode --tokenizer tokenizer.json --output data --split-on blank-lines --held-out 0.1 \
    --threads 1 text.txt
}
