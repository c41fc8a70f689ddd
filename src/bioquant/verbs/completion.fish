# Completion of bioquant in fish: bioquant completion fish > ~/.config/fish/completions/bioquant.fish
complete -c bioquant -f -a '(bioquant completion words (commandline -opc)[2..] (commandline -ct))'
