"""The plugins that ferrule comes with; they use the same door as everybody's."""
