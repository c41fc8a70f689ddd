# Completion of bioquant in zsh, after compinit: eval "$(bioquant completion zsh)"
_bioquant() {
    local -a found more
    found=("${(@f)$(bioquant completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    more=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    compadd -S '' -- $more
    compadd -- $found
}
compdef _bioquant bioquant
